//! Creates, corrects and watches the streams of a region.

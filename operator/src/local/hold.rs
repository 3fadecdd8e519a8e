//! `DIR/regions/<region>/hold`: while that file is there, every process of the region is stopped. For drills: a region goes and comes back.

use std::collections::BTreeSet;
use std::path::Path;

use nightjar_envelope::RegionName;

use super::addresses::region_dir;

/// The regions of the fleet that are held now.
pub(crate) fn held<'a>(
    state_dir: &Path,
    regions: impl Iterator<Item = &'a RegionName>,
) -> BTreeSet<RegionName> {
    regions
        .filter(|region| region_dir(state_dir, region.as_str()).join("hold").exists())
        .cloned()
        .collect()
}

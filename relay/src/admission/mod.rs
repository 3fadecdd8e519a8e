//! Admission: the cheap questions first, the signature last.

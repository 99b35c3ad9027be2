//! The versioned cache over any directory.

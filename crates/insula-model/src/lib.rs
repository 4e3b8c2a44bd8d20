//! The words: ids, names, units, specs, targets, observed, limits.

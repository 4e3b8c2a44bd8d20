//! The edge: routes, balancing, proxying.

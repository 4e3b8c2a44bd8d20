//! Decisions as pure functions: rollout, placement, routes, scale, drain.

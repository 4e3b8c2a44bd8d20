//! The only SQL: migrations, queries, the commit-ordered feed, leases.

//! Several servers on one PostgreSQL, hurt one by one.

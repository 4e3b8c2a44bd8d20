//! The REST types of `/v1`.

//! The HTTP API: authentication, authorisation, endpoints.

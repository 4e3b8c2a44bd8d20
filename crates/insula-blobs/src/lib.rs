//! Content-addressed chunks and artifacts over object_store.

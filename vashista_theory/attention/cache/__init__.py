"""The paged KV cache, on one device or on several."""

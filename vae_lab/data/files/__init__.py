"""Image files: listing, decoding, caching and downloading them."""

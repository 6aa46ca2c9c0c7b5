"""Paper export."""

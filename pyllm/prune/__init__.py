"""Models with parts taken out: layers, feed-forward channels, heads, tokens, single weights."""

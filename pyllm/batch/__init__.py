"""Jobs of many rows: read, answered in one continuous batch, written so that no row is lost or done twice."""

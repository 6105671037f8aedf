"""CovidSeg's nodes in a MRML scene: volumes, segments, tables, plots and displays. No Qt."""

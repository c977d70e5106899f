"""The pass manager: passes, options, pipelines, analyses, statistics and instruments."""

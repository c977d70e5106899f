"""Reports: what each operator became, why, and what it costs."""

"""What an experiment needs around its methods: run folders, progress bars, tables, plots."""

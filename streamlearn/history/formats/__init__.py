"""Forms that past data has: files of rows and lines, tables, Python objects; each read record by record."""

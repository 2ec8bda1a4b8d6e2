"""What operators ask of the catalog and change in it. Every change is one transaction with its audit row."""

"""The machinery of the book: claims and verdicts, the ledger, runs, pages. Extra `book`."""

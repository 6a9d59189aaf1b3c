"""What each page shows, as frozen records: from the store, and without a word of HTML."""

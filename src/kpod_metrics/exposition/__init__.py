"""From the store to the formats that a scraper may ask for."""

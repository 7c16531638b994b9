"""One data module per dataset, and the generic ones: folder, table, shards, mix."""

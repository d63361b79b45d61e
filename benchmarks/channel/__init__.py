"""Any value from rank to rank: pipecodec's channel beside the ways that people use."""

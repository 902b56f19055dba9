"""What tests and the bench share: a fake API server, certificates, virtual machines. It imports neither."""

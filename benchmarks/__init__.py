"""What hhchat's speed and learning are measured with; see README.md in this folder."""

"""The measures of Wang et al. 2025 (arXiv 2510.11328), as published and mended."""

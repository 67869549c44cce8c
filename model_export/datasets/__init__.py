"""Pictures with captions: drawn scenes, the sample pictures, and COCO annotations."""

"""Public text-to-image benchmarks: FID and CLIP score on COCO-30K and MJHQ-30K, and GenEval."""

-- The tokens with the largest reverse KL, which is the loss itself.
--
-- importance = KL(student || teacher)
-- group: disagreement
-- Source: TIP, arXiv 2604.14084 (ablation "divergence only")
SELECT *, reverse_kl AS importance
FROM tokens

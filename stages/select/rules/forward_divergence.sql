-- The tokens with the largest forward KL.
--
-- importance = KL(teacher || student)
-- group: disagreement
-- Source: TIP, arXiv 2604.14084 (the divergence of its Q3 score, alone)
SELECT *, forward_kl AS importance
FROM tokens

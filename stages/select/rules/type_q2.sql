-- Only tokens of type Q2: uncertain, yet in agreement.
--
-- importance = KL(student || teacher); tokens of other types are left out
-- The borders are `entropy_cut` and `divergence_cut`, or the medians of the round (`cuts`).
-- group: both
-- Source: TIP, arXiv 2604.14084 (taxonomy)
SELECT *, CASE WHEN type = 'Q2' THEN reverse_kl END AS importance
FROM tokens

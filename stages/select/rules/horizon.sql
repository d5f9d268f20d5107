-- The first tokens of each response, as many in a short one as in a long one.
--
-- importance = -position, for positions below `tokens`
-- Equals training on rollouts that are stopped early; TOPD stops at 10 % of the longest response.
-- group: position
-- keep: 1
-- param tokens = 100  positions from the start
-- Source: ESR, arXiv 2605.27028; TOPD, arXiv 2605.31490
SELECT *, -position AS importance
FROM tokens
WHERE position < getvariable('tokens')

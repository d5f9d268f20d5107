-- The tokens whose gradient one sample estimates best.
--
-- importance = IER = signal / noise of the sampled reverse-KL gradient, with the best baseline
-- A reliable token need not be a useful one: see ier_fused. The paper's budgets are 0.1 and 1 %.
-- group: disagreement
-- Source: IER-OPD, arXiv 2609.24432
SELECT *, signal_to_noise AS importance
FROM tokens

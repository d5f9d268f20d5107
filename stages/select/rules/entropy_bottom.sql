-- The tokens with the lowest student entropy: a control that should teach nothing.
--
-- importance = -H(student)
-- group: control
-- Source: TIP, arXiv 2604.14084 (a control in the manner of its Soft-OR bottom half)
SELECT *, -student_entropy AS importance
FROM tokens

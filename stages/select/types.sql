-- The four types of tokens: quadrants of student entropy and reverse KL, cut at two numbers of nats.

CREATE TYPE quadrant AS ENUM ('Q1', 'Q2', 'Q3', 'Q4');

CREATE MACRO clamped(x) AS CASE WHEN x > 0 THEN x::DOUBLE ELSE 0::DOUBLE END;

CREATE MACRO quadrant_of(entropy, divergence, entropy_cut, divergence_cut) AS
    CASE
        WHEN clamped(entropy) >= entropy_cut THEN
            CASE WHEN clamped(divergence) >= divergence_cut THEN 'Q1'::quadrant ELSE 'Q2'::quadrant
            END
        WHEN clamped(divergence) >= divergence_cut THEN 'Q3'::quadrant
        ELSE 'Q4'::quadrant
    END;

"""Names of pooling strategies for tests of all of them; not those of the code that is tested."""

#: One vector per text, by every engine.
SENTENCE_POOLINGS = ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN")
#: Of a server with a BERT model.
ENGINE_POOLINGS = ("NONE", *SENTENCE_POOLINGS, "CLS_POOLED")
#: Of single requests.
REQUEST_POOLINGS = (*SENTENCE_POOLINGS, "WEIGHTED_MEAN", "MEAN_SQRT_LEN")

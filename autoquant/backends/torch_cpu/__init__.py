"""torch's quantized CPU engines: x86, onednn, fbgemm, qnnpack."""

"""Events: bytes of any form to an event or a refusal, and the evidence and clocks that judge them."""

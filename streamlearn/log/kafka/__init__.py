"""The log on Kafka: the port of `log/port.py` over a client."""

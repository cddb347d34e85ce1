"""confluent-kafka (librdkafka): the consumer and the transactional producer, which are hot.

All else is kafka-python's (`factory.py`): the election, questions and orders, and producers without
transactions, whose partitioner users know. No other folder imports `confluent_kafka` (a test says so).
"""

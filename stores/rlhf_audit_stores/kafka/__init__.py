"""What every role needs to speak to Kafka: settings of the clients, topic names and facts, errors, a plain reader.

Nothing here seals, ships or stores; those who do import this package. Modules
import ``confluent_kafka`` where they use it, so that settings cost nothing.
"""

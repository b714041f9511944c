"""The data plane and the control plane: Kafka in, lake and recommendations out."""

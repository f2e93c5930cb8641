from ray_cluster import namespace, ray_cluster

__all__ = ["namespace", "ray_cluster"]

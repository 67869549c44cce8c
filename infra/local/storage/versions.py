"""Facts that fake-gcs-server does not track: composed objects, and versions deleted for good.

In a bucket with versioning (only in memory) the server makes the live object noncurrent at every delete, and
can't delete a noncurrent one. Cloud Storage deletes exactly the generation in the request, for good
(cloud.google.com/storage/docs/json_api/v1/objects/delete, 2026-11-30). A composite object has no MD5, but a
component count (cloud.google.com/storage/docs/composite-objects, 2026-11-30).
"""

from collections.abc import Mapping
from typing import Any

Key = tuple[str, str, str]


class Versions:
    """Records composed and deleted versions, and corrects the server's responses."""

    def __init__(self) -> None:
        self._deleted: set[Key] = set()
        self._components: dict[Key, int] = {}

    def delete(self, resource: Mapping[str, Any]) -> None:
        """Hide this version from now on."""
        self._deleted.add(_key(resource))

    def compose(self, resource: Mapping[str, Any], components: int) -> None:
        """Show this version as a composite object."""
        self._components[_key(resource)] = components

    def corrected(self, resource: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an object resource as Cloud Storage would; None if it was deleted."""
        if _key(resource) in self._deleted:
            return None
        components = self._components.get(_key(resource))
        if components is None:
            return dict(resource)
        return {name: each for name, each in resource.items() if name != "md5Hash"} | {
            "componentCount": components
        }

    def answer(self, document: Any) -> Any:
        """Return a response of the JSON API, an object or a listing, corrected."""
        if isinstance(document, dict) and document.get("kind") == "storage#object":
            return self.corrected(document)
        if isinstance(document, dict) and "items" in document:
            return document | {"items": [each for each in map(self.corrected, document["items"]) if each]}
        return document


def _key(resource: Mapping[str, Any]) -> Key:
    """Return bucket, name and generation, which the server always returns, whatever `fields` requests."""
    return resource["bucket"], resource["name"], resource["generation"]

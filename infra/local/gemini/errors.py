"""HTTP errors in the format of Google's APIs (google.aip.dev/193)."""

from typing import Any

# By HTTP status: Google's status and the usual message.
STATUS = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission."),
    404: ("NOT_FOUND", "The model is not found, or is not supported for generateContent."),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    500: ("INTERNAL", "An internal error has occurred."),
    502: ("UNAVAILABLE", "Bad gateway."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}


class ApiError(Exception):
    """An error response: HTTP status `code`, `headers` and a JSON `body`."""

    def __init__(
        self, code: int, message: str = "", *, detail: Any = None, retry_after: str = "", status: str = ""
    ) -> None:
        usual_status, usual_message = STATUS[code]
        super().__init__(message or usual_message)
        self.code = code
        self.headers = {"Retry-After": retry_after} if retry_after else {}
        details = [detail] if detail else []
        self.body = {
            "error": {
                "code": code,
                "message": str(self),
                "status": status or usual_status,
                "details": details,
            }
        }


def error_info(reason: str) -> dict[str, str]:
    """Return an ErrorInfo detail, which names the reason of an error in one word."""
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


INVALID_KEY = ApiError(
    400, "API key not valid. Please pass a valid API key.", detail=error_info("API_KEY_INVALID")
)

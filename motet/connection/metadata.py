"""Names of the metadata that both sides of the control API use."""

REQUEST_ID = "motet-request-id"
ERROR = "motet-error-bin"

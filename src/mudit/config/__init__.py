"""The one configuration: typed sections (`schema`), strict loading (`load`) and generated documents (`export`). Imports no torch."""

"""The one configuration: typed sections (`schema`), strict loading (`load`), generated documents (`export`). Imports no torch."""

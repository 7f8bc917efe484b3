"""The store for asyncio."""

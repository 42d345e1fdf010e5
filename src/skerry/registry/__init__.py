"""Image registries: the client of the OCI distribution specification 1.1 and Docker's registry v2.

Nothing is imported here: the engine must be able to start without paying for what only a pull or a
push needs. `config` and `auth` use the standard library alone; `client` needs aiohttp.
"""

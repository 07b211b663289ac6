"""Jobs: generations too large for one request.

document.py   everything that decides the bytes of a job
requests.py   post, list, find and remove jobs, and read results
worker.py     make their images
"""

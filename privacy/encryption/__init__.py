"""Homomorphic aggregation: sites encrypt to a key holder, which decrypts one sum per session and nothing else.

packing      several fixed-point values in one plaintext slot, with room for the sum
scheme       BFV through TenSEAL's binding of SEAL: encrypt, add, decrypt
messages     what travels, and what is signed
site         a site's side, the key holder's included
coordinator  the coordinator's side: it relays sealed ciphertexts and unpacks the sum
protection   both behind the common interface
"""
